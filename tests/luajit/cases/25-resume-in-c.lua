-- Needs: host. A C function resumes a coroutine and works on afterwards, when the VM's current coroutine is still that one.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0
local function body_work(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
end

local function body(parent, deadline)
    case.resumed_by(parent)
    body_work(deadline) -- @body_work
    return deadline
end

local function parent(first, second)
    host.resume_and_work(second, body, coroutine.running(), first) -- @resume
    return first
end

case.ready()
while case.running() do
    local whole, now = case.part(1), clock()
    parent(now + 0.3 * (whole - now), whole) -- @start
    case.account("parent")
end
case.finish()
