-- 3000 calls deep: more frames than a profiler keeps.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0
local function leaf(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
end

local function deep(n, deadline)
    if n > 1 then
        deep(n - 1, deadline) -- @down
    else
        leaf(deadline) -- @bottom
    end
    return n
end

case.ready()
while case.running() do
    deep(3000, case.part(1)) -- @start
    case.account("deep")
end
case.finish()
