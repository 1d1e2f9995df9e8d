-- A worker with a large heap that measures its own pauses.
--   HEAP_MB=1024 host heap.lua [SECONDS]
--
-- After `ready` one line for each slot of 20 ms: when it began and ended (CLOCK_MONOTONIC, seconds) and the longest time
-- between two looks at the clock in it, in microseconds. Every 200th look memory is mapped, touched and unmapped, as
-- programs do: who holds the lock of the address space stops that too.
local ffi = require "ffi"
ffi.cdef [[
    int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
    typedef struct { long seconds, nanoseconds; } bench_time;
    int clock_gettime(int clock, bench_time *now);
    void *mmap(void *at, size_t size, int protection, int flags, int file, long offset);
    int munmap(void *at, size_t size);
]]
ffi.C.prctl(1, 9, 0, 0, 0) -- PR_SET_PDEATHSIG, SIGKILL

local now = ffi.new "bench_time"
local function wall()
    ffi.C.clock_gettime(1, now)
    return tonumber(now.seconds) + tonumber(now.nanoseconds) * 1e-9
end

local PAGES = 16
local function touch_new_memory()
    local at = ffi.C.mmap(nil, PAGES * 4096, 3, 0x22, -1, 0) -- read and write; private, anonymous
    local bytes = ffi.cast("char *", at)
    for page = 0, PAGES - 1 do bytes[page * 4096] = 1 end
    ffi.C.munmap(at, PAGES * 4096)
end

-- What services keep: tables of tables and strings. No collection meanwhile: it would be a pause of our own.
collectgarbage "stop"
local kept, wanted = {}, (tonumber(os.getenv "HEAP_MB") or 1024) * 1024
local count = 0
while collectgarbage "count" < wanted do
    for _ = 1, 1000 do
        count = count + 1
        kept[count] = { id = count, name = "item " .. count, tags = { count % 7, count % 11, "x" } }
    end
end

local function slot(begin)
    local last, longest, looks = begin, 0, 0
    repeat
        looks = looks + 1
        if looks % 200 == 0 then touch_new_memory() end
        local at = wall()
        if at - last > longest then longest = at - last end
        last = at
    until last - begin >= 0.02
    return last, longest
end

print "ready"
io.flush()
local stop_at = wall() + (tonumber(arg[1]) or 10)
local at = wall()
repeat
    local begin = wall()
    local longest
    at, longest = slot(begin)
    io.write(("%.6f %.6f %.1f\n"):format(begin, at, longest * 1e6))
    io.flush()
until at >= stop_at
