-- What compiled code does that is not a call in the bytecode: metamethods without a side exit, and steps of the garbage collector.
--
--   host unseen.lua SECONDS
--
-- `tables` and `ctypes` do next to nothing themselves: their operators do all the work. `keeps` allocates through functions
-- that are inlined into it, and the collector works where its loop begins.
local ffi = require "ffi"

local function much(x)
    x = x / 1.0001 + 1
    x = x / 1.0002 + 1
    x = x / 1.0003 + 1
    x = x / 1.0004 + 1
    x = x / 1.0005 + 1
    x = x / 1.0006 + 1
    x = x / 1.0007 + 1
    x = x / 1.0008 + 1
    return x
end

local number = setmetatable({}, {
    __add = function(_, x)
        x = x / 1.0001 + 1
        x = x / 1.0002 + 1
        x = x / 1.0003 + 1
        x = x / 1.0004 + 1
        x = x / 1.0005 + 1
        x = x / 1.0006 + 1
        x = x / 1.0007 + 1
        x = x / 1.0008 + 1
        return x
    end,
})

local function tables(n)
    local sum = 0
    for _ = 1, n do
        sum = number + sum
    end
    return sum
end

local vector
vector = ffi.metatype("struct { double x, y; }", {
    __div = function(a, k)
        local x = a.x / k / 1.01 / 1.02 / 1.03 / 1.04
        local y = a.y / k / 1.01 / 1.02 / 1.03 / 1.04
        return vector(x + 1, y + 1)
    end,
})

local function ctypes(n)
    local v = vector(1, 2)
    for _ = 1, n do
        v = v / 1.5
    end
    return v.x
end

local kept = {}

local function pair(a, b)
    return { a, b }
end

local function keep(i, value)
    kept[i % 100] = value
end

local function keeps(n)
    for i = 1, n do -- @loop
        keep(i, pair(i, much(i))) -- @loop
    end
end

print "ready"
io.stdout:flush()
local deadline = os.clock() + tonumber(arg[1])
repeat
    for _, work in ipairs { tables, ctypes, keeps } do
        local turn = os.clock() + 0.05
        repeat
            work(20000)
        until os.clock() >= turn
    end
until os.clock() >= deadline
