-- Two functions that take the same time, of which one allocates three times as much as the other.
--
--   allocates.lua stopped|running|small [SECONDS]
--
-- Prints `ready`, waits for a line, allocates for so much CPU time (1.2 s unless it is said), prints what the VM and its functions
-- have allocated, and then `done`:
--
--   truth NAME BYTES          of a function: what a call allocates, by the VM's own counter, times its calls
--   counter BYTES             growth of that counter (collectgarbage "count") while it ran
--
-- `stopped`: without garbage collection. `running`: with it, on a heap as large as that of a service. `small`: on one
-- that is collected every millisecond or so.

local seconds, mode = tonumber(arg[2] or 1.2), arg[1]
local clock = os.clock
local sink = 0

local ballast = {}
for i = 1, mode == "small" and 0 or 50000 do ballast[i] = { i, i, i } end

local keep = {}
for i = 1, 64 do keep[i] = false end

local function allocate(count)
    for i = 1, count do
        keep[i % 64 + 1] = { i, i + 1, i + 2 }
    end
end

local function spin(rounds)
    local x = sink
    for i = 1, rounds do x = (x + i * 3) % 1021 end
    sink = x
end

-- Each call takes some 0.6 ms, next to nothing of which is allocating.
local CHUNKS, ROUNDS = 80, 1500
local function three()
    for _ = 1, CHUNKS do
        allocate(9) -- @three
        spin(ROUNDS)
    end
end
local function one()
    for _ = 1, CHUNKS do
        allocate(3) -- @one
        spin(ROUNDS)
    end
end

-- what is to be compiled is compiled before anything counts
for _ = 1, 100 do three() one() end

local function count()
    return collectgarbage "count" * 1024
end

local function bytes_of(f)
    collectgarbage()
    collectgarbage "stop"
    local before = count()
    for _ = 1, 20 do f() end
    local bytes = (count() - before) / 20
    collectgarbage "restart"
    return bytes
end
local of_three, of_one = bytes_of(three), bytes_of(one)

io.write "ready\n"
io.flush()
io.read()

collectgarbage()
if mode == "stopped" then collectgarbage "stop" end
local before, calls = count(), 0
local deadline = clock() + seconds
repeat
    three()
    one()
    calls = calls + 1
until clock() >= deadline
local grown = count() - before
io.write(("truth three %.0f\ntruth one %.0f\ncounter %.0f\ndone\n"):format(calls * of_three, calls * of_one, grown))
io.flush()
-- the functions of a VM that is gone have no names
io.read()
