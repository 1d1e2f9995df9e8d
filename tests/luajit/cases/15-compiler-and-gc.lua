-- Time in the compiler, in garbage collection, and in finalizers.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0
local deadline

-- A new function each time, hot at once, so that it is recorded and assembled; "=generated" has no source.
local count = 0
local source = [[
local n, x = ...
for i = 1, 120 do
    if i % 3 == n % 3 then x = x + i * %d
    elseif i % 5 == n % 5 then x = x * 0.5
    else x = x - i end
end
return x
]]
local function compile()
    repeat
        count = count + 1
        local chunk = loadstring((source:gsub("%%d", count)), "=generated") -- @load
        for i = 1, 30 do
            sink = chunk(i, 1) -- @generated
        end
        if count % 50 == 0 then
            jit.flush() -- @flush
        end
    until clock() >= deadline
end

-- Garbage that is collected a little at every allocation, also inside of traces.
local keep = {}
local function allocate()
    repeat
        for i = 1, 200 do
            keep[i % 500 + 1] = { i, { i } }
        end
    until clock() >= deadline
end

-- A whole collection at once
local function collect()
    repeat
        collectgarbage() -- @collect
    until clock() >= deadline
end

local function finalizer()
    local x = sink
    for i = 1, 5000 do x = (x + i * 7) % 1021 end
    sink = x
end
local function finalize()
    repeat
        for _ = 1, 20 do
            local proxy = newproxy(true)
            getmetatable(proxy).__gc = finalizer
        end
        collectgarbage("step", 100) -- @step
    until clock() >= deadline
end

case.ready()
while case.running() do
    deadline = case.part(0.3)
    compile() -- @start
    case.account("compile")
    deadline = case.part(0.3)
    allocate() -- @start
    case.account("allocate")
    deadline = case.part(0.2)
    collect() -- @start
    case.account("collect")
    deadline = case.part(0.2)
    finalize() -- @start
    case.account("finalize")
end
case.finish()
