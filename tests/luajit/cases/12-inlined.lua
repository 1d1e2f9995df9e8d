-- A hot loop with three calls that a trace has inlined; each line of theirs costs a known part.
--
-- The cost of a line is its number of multiplications and additions: each needs the result of the one before, so neither
-- the processor nor the compiler can do two at once, and n of them take n times as long, compiled or not.
-- Each line begins with a comparison that could leave the trace, so that the compiler notes the line (a snapshot).
local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
local clock = case.clock

local LIMIT = 1e9
local A, B = 0.75, 0.5

local function small(x)
    if x > LIMIT then return 0 end x = ((((x * A + B) * A + B) * A + B) * A + B) -- @small_4
    if x > LIMIT then return 1 end x = ((((x * A + B) * A + B) * A + B) * A + B) -- @small_4
    return x
end

local function medium(x)
    if x > LIMIT then return 0 end x = ((((x * A + B) * A + B) * A + B) * A + B) -- @medium_4
    if x > LIMIT then return 1 end x = ((((((((x * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) -- @medium_8
    return x
end

local function large(x)
    if x > LIMIT then return 0 end x = ((((x * A + B) * A + B) * A + B) * A + B) -- @large_4
    if x > LIMIT then return 1 end x = ((((((((x * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) -- @large_8
    if x > LIMIT then return 2 end x = ((((((((((((((((x * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) * A + B) -- @large_16
    return x
end

local function outer(x)
    x = large(x) -- @outer_large
    return x
end

local sink = 0
local function hot_loop(deadline)
    repeat
        local x = sink
        for _ = 1, 1000 do
            x = small(x) -- @small
            x = medium(x) -- @medium
            x = outer(x) -- @outer
        end
        sink = x
    until clock() >= deadline
end

case.ready()
while case.running() do
    hot_loop(case.part(1)) -- @start
    case.account("hot_loop")
end
case.finish()
