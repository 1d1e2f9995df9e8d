-- pcall and xpcall whose function succeeds.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0
local function work_a(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
    return true
end

local function work_b(deadline)
    work_a(deadline) -- @work_b_works
    return true
end

local function handler(message)
    return message
end

local function by_pcall(deadline)
    local ok = pcall(work_a, deadline) -- @pcall
    return ok
end

local function by_xpcall(deadline)
    local ok = xpcall(work_b, handler, deadline) -- @xpcall
    return ok
end

-- one inside the other
local function nested(deadline)
    local ok = pcall(by_xpcall, deadline) -- @nested
    return ok
end

case.ready()
while case.running() do
    by_pcall(case.part(0.5)) -- @a
    case.account("by_pcall")
    by_xpcall(case.part(0.3)) -- @b
    case.account("main_by_xpcall")
    nested(case.part(0.2)) -- @c
    case.account("nested")
end
case.finish()
