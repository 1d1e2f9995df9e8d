-- Needs: host. A C function that Lua has called runs Lua of another VM (23-nested-inner.lua), on the same native stack.
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local sink = 0
local function burn(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
end

host.inner((arg[0]:match "^.*/" or "") .. "23-nested-inner.lua", jit.status())

local function outer(deadline)
    host.nested("inner_entry", deadline) -- @nested
    return deadline
end

case.ready()
while case.running() do
    outer(case.part(0.6)) -- @start
    case.account("outer")
    burn(case.part(0.4)) -- @burn
    case.account("burn")
end
case.finish()
