-- Calls Lua by C in three ways, a few microseconds each: whoever reads the native stack and the Lua stack at two moments
-- sees what never was.
local sink = 0

local function work(n)
    local s = sink
    for i = 1, n do
        s = (s + i * 3) % 1021
    end
    sink = s
end

local function called(n)
    work(n)
    return n
end
local function pcalled(n)
    work(n)
    return n
end
local function resumed(n)
    work(n)
    return n
end

local function calls(n)
    host.call(called, n)
    return n
end
local function pcalls(n)
    host.pcall(pcalled, n)
    return n
end
local function resumes(n)
    host.resume(resumed, n)
    return n
end

host.say("truth turns running -\n")
host.ready()
while sink >= 0 do
    calls(100)
    pcalls(150)
    resumes(200)
end
return sink
