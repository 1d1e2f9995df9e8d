-- Vararg functions: one frame per call, though the VM makes two.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0
local function work(deadline, ...)
    repeat
        local x = sink
        for i = 1, 500 do x = (x + i * 3 + select("#", ...)) % 1021 end -- @work_select
        sink = x
    until clock() >= deadline
    return ...
end

local function pass(...)
    local a, b = work(...) -- @pass
    return a, b
end

local function pass_twice(...)
    local a = pass(...) -- @pass_twice
    return a
end

local function protected(...)
    local ok = pcall(pass, ...) -- @protected
    return ok
end

local function pick(deadline, ...)
    repeat
        local x = 0
        for i = 1, 200 do
            x = x + (select(i % 3 + 1, ...)) -- @select
        end
        sink = x % 1021
    until clock() >= deadline
end

local function run_pass(deadline)
    pass(deadline, 1, 2, 3) -- @run_pass
end
local function run_twice(deadline)
    pass_twice(deadline, nil, 2) -- @run_twice
end
local function run_protected(deadline)
    protected(deadline, 1) -- @run_protected
end
local function run_pick(deadline)
    pick(deadline, 1, 2, 3) -- @run_pick
end

case.ready()
while case.running() do
    run_pass(case.part(0.3)) -- @start
    case.account("run_pass")
    run_twice(case.part(0.3)) -- @start
    case.account("run_twice")
    run_protected(case.part(0.2)) -- @start
    case.account("run_protected")
    run_pick(case.part(0.2)) -- @start
    case.account("run_pick")
end
case.finish()
