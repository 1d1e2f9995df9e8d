-- Six functions with known shares of the CPU time, of the kinds that services have; JIT_P=FILE: with LuaJIT's own
-- profiler, jit.p, which writes whole stacks there.
--   host [-joff] shares.lua [SECONDS]
local case = dofile((arg[0]:match "^.*/" or "") .. "../../tests/luajit/cases/common.lua")
local clock = case.clock
local sink = 0

local function mix(x, i)
    return (x + i * 3) % 1021
end

function arithmetic(deadline)
    repeat
        local x = sink
        for i = 1, 500 do x = mix(x, i) end
        sink = x
    until clock() >= deadline
end

local words = {}
for i = 1, 40 do words[i] = "word" .. i end

function strings(deadline)
    repeat
        local text = table.concat(words, " ")
        sink = #text:gsub("%a+", string.upper) + #text:rep(3) + (text:find("word40", 1, true) or 0)
    until clock() >= deadline
end

local function before(a, b)
    return a.key < b.key
end

function sorting(deadline)
    repeat
        local list = {}
        for i = 1, 60 do list[i] = { key = (i * 7919) % 61 } end
        table.sort(list, before)
        sink = list[1].key
    until clock() >= deadline
end

local vector = {}
vector.__index = vector
vector.__add = function(a, b)
    return setmetatable({ x = a.x + b.x, y = a.y + b.y }, vector)
end

function objects(deadline)
    repeat
        local sum = setmetatable({ x = 0, y = 0 }, vector)
        local step = setmetatable({ x = 1, y = 2 }, vector)
        for _ = 1, 200 do sum = sum + step end
        sink = sum.x
    until clock() >= deadline
end

local function may_fail(n)
    if n % 16 == 0 then error("no") end
    return n
end

function errors(deadline)
    repeat
        for i = 1, 50 do
            local ok = pcall(may_fail, i)
            sink = sink + (ok and 1 or 0)
        end
    until clock() >= deadline
end

-- jit.p books time in a C function on the Lua that runs next, so C is called for a short time only, between other things.
function in_c(deadline)
    repeat
        host.burn(0)
        local x = sink
        for i = 1, 50 do x = mix(x, i) end
        sink = x
    until clock() >= deadline
end

local output = os.getenv "JIT_P"
local profiler
if output then
    package.path = os.getenv "JIT_PATH" .. ";" .. package.path
    profiler = require "jit.p"
    profiler.start("Gfi2", output)
end
case.ready()
while case.running() do
    arithmetic(case.part(0.30)) case.account "arithmetic"
    strings(case.part(0.20)) case.account "strings"
    sorting(case.part(0.16)) case.account "sorting"
    objects(case.part(0.14)) case.account "objects"
    errors(case.part(0.12)) case.account "errors"
    in_c(case.part(0.08)) case.account "in_c"
end
if profiler then profiler.stop() end
case.finish()
