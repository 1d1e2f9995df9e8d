-- Needs: host -v 3. Three VMs in one thread take turns, as the http and stream parts of nginx do: 1/6, 2/6, 3/6 of the time.
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

local function handler_1(deadline)
    work_1(deadline) -- @work_1
    return deadline
end
local function handler_2(deadline)
    work_2(deadline) -- @work_2
    return deadline
end
local function handler_3(deadline)
    work_3(deadline) -- @work_3
    return deadline
end

-- What the host calls; `turn` is the same in every VM, what it calls is not.
local handler = ({ handler_1, handler_2, handler_3 })[host.vm]
function turn(deadline)
    handler(deadline) -- @turn
    return deadline
end

-- and at the end
finish = case.stop
case.observe()
