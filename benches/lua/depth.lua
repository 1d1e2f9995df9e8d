-- Busy below DEPTH calls of four functions in turn, so that neighbours in the stack are never the same function.
--   DEPTH=25 host [-joff] depth.lua [SECONDS]
local case = dofile((arg[0]:match "^.*/" or "") .. "../../tests/luajit/cases/common.lua")
local clock = case.clock

local sink = 0
local function leaf(deadline)
    repeat
        local x = sink
        for i = 1, 1000 do x = (x + i * 3) % 1021 end
        sink = x
    until clock() >= deadline
end

local east, south, west, north

function east(n, deadline)
    if n > 1 then south(n - 1, deadline) else leaf(deadline) end
    return n
end

function south(n, deadline)
    if n > 1 then west(n - 1, deadline) else leaf(deadline) end
    return n
end

function west(n, deadline)
    if n > 1 then north(n - 1, deadline) else leaf(deadline) end
    return n
end

function north(n, deadline)
    if n > 1 then east(n - 1, deadline) else leaf(deadline) end
    return n
end

local depth = tonumber(os.getenv "DEPTH") or 10
case.ready()
while case.running() do
    east(depth, case.part(1))
    case.account("depth")
end
case.finish()
