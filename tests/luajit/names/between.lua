-- Compiled code whose functions have no side exits of their own: nothing tells which of them an instruction belongs to.
--
--   host between.lua SECONDS
--
-- The true stacks are  main chunk; outer  with  quick, slow, last  called from it in turn.
local root = math.sqrt

local function quick(x)
    if x > 1e9 then return 1 end
    return x
end

local function slow(x)
    x = root(x + 1) + root(x + 2)
    x = root(x + 3) + root(x + 4)
    x = root(x + 5) + root(x + 6)
    return x
end

local function last(x)
    x = root(x + 7) + root(x + 8)
    return x
end

local function outer(count)
    local x = 1.5
    for _ = 1, count do
        x = quick(x)
        x = slow(x)
        x = last(x)
        x = root(x + 9) + root(x + 10)
    end
    return x
end

-- alone in its trace, with a builtin: that is certain
local function alone(count)
    local x = 1.5
    for _ = 1, count do
        x = root(x + 9) + root(x + 10)
    end
    return x
end

print "ready"
io.stdout:flush()
local finish = os.time() + tonumber(arg[1])
while os.time() < finish do
    outer(1e5)
    alone(1e5)
end
