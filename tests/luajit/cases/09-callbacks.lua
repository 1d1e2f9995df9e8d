-- Lua functions that builtins written in C call: string.gsub and table.sort.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0
local function burn()
    local x = sink
    for i = 1, 1000 do x = (x + i * 3) % 1021 end
    sink = x
end

local function on_match(word)
    burn() -- @match
    return word
end

local function compare(a, b)
    burn() -- @compare
    return a < b
end

local text = ("word "):rep(10)
local function replace(deadline)
    repeat
        local s = string.gsub(text, "%a+", on_match) -- @gsub
        sink = sink + #s
    until clock() >= deadline
end

local function sort(deadline)
    repeat
        local t = { 5, 3, 8, 1, 9, 2, 7, 4, 6, 0 }
        table.sort(t, compare) -- @sort
    until clock() >= deadline
end

case.ready()
while case.running() do
    replace(case.part(0.6)) -- @start
    case.account("replace")
    sort(case.part(0.4)) -- @start
    case.account("sort")
end
case.finish()
