-- What the cases share: run time, truth, and LuaJIT's own idea of its stacks.
--
--   CASE.lua [SECONDS]        in steady state for that long (default 10)
--
-- Standard output is that of tests/programs/common.h: `ready`, then at the end `truth NAME SHARE SECONDS` for each part of
-- the work, and `cpu SECONDS`. The clock is the kernel's for CPU time, of this thread (of the process under a host that
-- has none for threads). Like those programs a case dies with its parent, unless KEEP=1.
--
-- Rounds are 7 to 13 ms long and divided into parts:
--
--   local case = dofile((arg[0]:match "^.*/" or "") .. "common.lua")
--   case.ready()
--   while case.running() do
--       burn_a(case.part(0.7)) case.account("burn_a")      -- works until 70 % of this round's CPU time are used
--       burn_b(case.part(0.3)) case.account("burn_b")
--   end
--   case.finish()
--
-- MOONSCOPE_OBSERVE=profile:FILE or hook:FILE makes the case write its own stacks, as LuaJIT's profiler or its call
-- and count hooks see them. tests/luajit/check compares them with the grammar. It is off otherwise.

local case = {}

local clock = host and host.clock or os.clock
case.clock = clock

-- ---- the end --------------------------------------------------------------------------------------------------------

local has_ffi, ffi = pcall(require, "ffi")
if has_ffi then
    ffi.cdef [[
        int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
        typedef struct { long seconds, nanoseconds; } case_time;
        int clock_gettime(int clock, case_time *now);
    ]]
    -- a static program has no symbols that could be looked up
    has_ffi = pcall(function() return ffi.C.clock_gettime end)
    if has_ffi and not host and not os.getenv("KEEP") then
        ffi.C.prctl(1, 9, 0, 0, 0) -- PR_SET_PDEATHSIG, SIGKILL
    end
end
-- Wall time in seconds; only the end of the run depends on it.
local wall = os.time
if has_ffi then
    local now = ffi.new("case_time")
    function wall()
        ffi.C.clock_gettime(1, now) -- CLOCK_MONOTONIC
        return tonumber(now.seconds) + tonumber(now.nanoseconds) * 1e-9
    end
end

-- ---- rounds ---------------------------------------------------------------------------------------------------------

local seconds = tonumber(arg[1]) or 10
local wall_end, cpu_start, last, length
local used, order = {}, {}
local state = 88172645

-- The parts of a round, by their order: when the one that runs should end, and by how much each has been longer than it
-- should. What it owes is taken from its next turns. (Deadlines of one part must not depend on another's: when the
-- processor is given to others, a CPU clock can jump by many rounds.)
local part, planned_end
local owed = {}

local function end_of_part(now)
    if planned_end then
        owed[part] = owed[part] + (now - planned_end)
        planned_end = nil
    end
end

function case.running()
    if wall() >= wall_end then
        return false
    end
    state = (state * 1103515245 + 12345) % 2147483648
    length = 0.007 + 0.006 * state / 2147483648
    part = 0
    last = clock() -- time between rounds is nobody's
    return true
end

-- The CPU time at which this part of the round, which begins now, is to end. Parts of a round add up to 1.
function case.part(share)
    local now = clock()
    end_of_part(now)
    part = part + 1
    local debt = owed[part] or 0
    local paid = math.max(0, math.min(debt, share * length))
    owed[part] = debt - paid
    planned_end = now + share * length - paid
    return planned_end
end

-- All CPU time since the last account belongs to NAME.
function case.account(name)
    local now = clock()
    end_of_part(now)
    if not used[name] then
        used[name] = 0
        order[#order + 1] = name
    end
    used[name] = used[name] + (now - last)
    last = now
end

function case.ready()
    case.observe()
    if host then
        host.ready()
    else
        io.write("ready\n")
        io.flush()
    end
    wall_end = wall() + seconds
    cpu_start = clock()
end

function case.finish()
    local cpu = clock() - cpu_start
    case.stop()
    local total, lines = 0, {}
    for _, name in ipairs(order) do
        total = total + used[name]
    end
    for i, name in ipairs(order) do
        lines[i] = ("truth %s %.4f %.4f\n"):format(name, total > 0 and used[name] / total or 0, used[name])
    end
    lines[#lines + 1] = ("cpu %.4f\n"):format(cpu)
    local text = table.concat(lines)
    if host then
        host.say(text)
    else
        io.write(text)
    end
end

-- ---- LuaJIT's own stacks --------------------------------------------------------------------------------------------

local kind, output = (os.getenv("MOONSCOPE_OBSERVE") or ""):match("^(%a+):(.+)$")
local observer
-- Only one VM of a process can use LuaJIT's profiler.
if kind and not (host and host.vm > 1) then
    observer = dofile((arg[0]:match "^.*/" or "") .. "observe.lua").new(kind, clock)
end
case.observed_by = kind

-- To be called first in a coroutine that `parent` resumes; `parent` is coroutine.running() there.
function case.resumed_by(parent)
    if observer then
        observer.resumed_by(parent)
    end
end

-- For a script that the host calls (host -v); one that runs itself gets both from ready() and finish().
function case.observe()
    if observer then
        observer.start(true)
    end
end

function case.stop()
    if observer then
        local file = assert(io.open(output, "w"))
        file:write(observer.stop())
        file:close()
    end
end

return case
