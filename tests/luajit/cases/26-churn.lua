-- Functions that are compiled anew all the time, so that others stand where they stood; traces flushed again and again.
--
-- Their source is 26-churn-source.lua: outer_N calls inner_N, so a name that belongs to an earlier function at the same
-- address shows as a pair that does not fit.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local path = (arg[0]:match "^.*/" or "") .. "26-churn-source.lua"
local file = assert(io.open(path))
local source = file:read "*a"
file:close()

-- each pair, with as many empty lines before it as there are lines in the file
local pairs_of_functions = {}
for number, from, text in source:gmatch "%-%- pair (%d+)()\n(.-)\n%-%- end" do
    local _, before = source:sub(1, from):gsub("\n", "")
    pairs_of_functions[tonumber(number)] = ("\n"):rep(before) .. text
end

local function fresh(number)
    local run = assert(loadstring(pairs_of_functions[number], "@" .. path))() -- @fresh
    return run
end

local turn = 0
local function churn(deadline)
    repeat
        turn = turn + 1
        local number = turn % #pairs_of_functions + 1
        local run = fresh(number) -- @load
        run(30) -- @run
        run = nil
        if turn % 20 == 0 then
            collectgarbage() -- @collect
            jit.flush() -- @flush
        end
    until clock() >= deadline
end

case.ready()
while case.running() do
    churn(case.part(1)) -- @start
    case.account("churn")
end
case.finish()
