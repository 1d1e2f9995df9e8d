-- Needs: host -t 4. One VM per thread, each with a function of its own: a sample of thread vm-N is in work_N.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0
local function work_1(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
end
local function work_2(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
end
local function work_3(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
end
local function work_4(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
end

local work = ({ work_1, work_2, work_3, work_4 })[host.vm]
local function serve(deadline)
    work(deadline) -- @work
    return deadline
end

case.ready()
while case.running() do
    serve(case.part(1)) -- @start
    case.account("work_" .. host.vm)
end
case.finish()
