-- Hooks and LuaJIT's own profiler are on while it works.
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

local function caller(deadline)
    burn(deadline) -- @burn
    return deadline
end

local hooks, samples = 0, 0
local function on_count()
    for i = 1, 200 do hooks = (hooks + i) % 1021 end
end
local function on_sample()
    for i = 1, 2000 do samples = (samples + i) % 1021 end
end

case.ready()
-- whichever of the two does not serve to observe this program
if case.observed_by ~= "hook" then
    debug.sethook(on_count, "", 1000)
end
if case.observed_by ~= "profile" then
    require("jit.profile").start("li1", on_sample)
end
while case.running() do
    caller(case.part(1)) -- @start
    case.account("caller")
end
case.finish()
