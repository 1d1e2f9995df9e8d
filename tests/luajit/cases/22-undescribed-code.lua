-- Needs: host. C code that nothing describes, as a regular expression compiler makes it, called from Lua.
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

local function matcher(deadline)
    host.nocfi(deadline) -- @nocfi
    return deadline
end

local function route(deadline)
    matcher(deadline) -- @matcher
    return deadline
end

case.ready()
while case.running() do
    route(case.part(0.6)) -- @start
    case.account("route")
    burn(case.part(0.4)) -- @burn
    case.account("burn")
end
case.finish()
