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
    if not host and not os.getenv("KEEP") then
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
local wall_end, cpu_start, round_end, last
local used, order = {}, {}
local state = 88172645

local function round_length()
    state = (state * 1103515245 + 12345) % 2147483648
    return 0.007 + 0.006 * state / 2147483648
end

local length

function case.running()
    if wall() >= wall_end then
        return false
    end
    length = round_length()
    local now = clock()
    -- `last` is where the accounts end: time between rounds is nobody's
    round_end, last = now, now
    return true
end

-- The CPU time at which this part of the round ends. Parts of a round add up to 1.
function case.part(share)
    round_end = round_end + share * length
    return round_end
end

-- All CPU time since the last account belongs to NAME.
function case.account(name)
    local now = clock()
    if not used[name] then
        used[name] = 0
        order[#order + 1] = name
    end
    used[name] = used[name] + (now - last)
    last = now
end

local observe_start, observe_stop

function case.ready()
    if observe_start then
        observe_start()
    end
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
    if observe_stop then
        observe_stop()
    end
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

local observer, output = (os.getenv("MOONSCOPE_OBSERVE") or ""):match("^(%a+):(.+)$")
case.observer = observer

-- Coroutines are on top of what resumed them; LuaJIT tells only one stack at a time. (nil: the main thread)
local resumed_by, main_thread = setmetatable({}, { __mode = "k" }), nil

-- To be called first in a coroutine that `parent` resumes; `parent` is coroutine.running() there.
function case.resumed_by(parent)
    local this = coroutine.running()
    if this then
        resumed_by[this] = parent or false
    end
end

-- For a script that the host calls (host -v); one that runs itself gets this from ready() and finish().
function case.observe() end
function case.stop() end

-- Only one VM of a process can use LuaJIT's profiler.
if not observer or host and host.vm > 1 then
    return case
end

local util = require "jit.util"
local names, counts, stacks = {}, {}, {}

local function add_library(prefix, library)
    for key, value in pairs(library) do
        if type(value) == "function" and type(key) == "string" then
            names[value] = names[value] or "[b]" .. prefix .. key
        end
    end
end

local function name_builtins()
    for name, library in pairs(package.loaded) do
        if type(library) == "table" and name ~= "_G" then
            add_library(name .. ".", library)
        end
    end
    add_library("", _G)
    if has_ffi then
        for key, value in pairs(debug.getmetatable(ffi.C.prctl)) do
            if type(value) == "function" then
                names[value] = "[b]ffi.meta." .. key
            end
        end
    end
    for key, value in pairs(getmetatable(io.stdout)) do
        if type(value) == "function" then
            names[value] = "[b]io.method." .. key
        end
    end
    -- In LuaJIT's lib_package.c these are plain C functions.
    names[require] = "[c]lj_cf_package_require"
    for i, kind in ipairs { "preload", "lua", "c", "croot" } do
        names[package.loaders[i]] = "[c]lj_cf_package_loader_" .. kind
    end
end

-- Builtins that no table holds, by their number.
local function name_by_number(func)
    local info = util.funcinfo(func)
    if info.ffid then
        local wrapped = coroutine.wrap(function() end)
        if info.ffid == util.funcinfo(wrapped).ffid then
            return "[b]coroutine.wrap_aux"
        end
        return "[b]?"
    end
    return "[c]" .. (host and host.symbol(info.addr) or "?")
end

local function frame_text(info)
    if info.what ~= "C" then
        return info.source:gsub("^[@=]", ""):gsub("^.*/", "") .. ":" .. info.linedefined .. ":" .. info.currentline
    end
    local name = names[info.func]
    if not name then
        name = name_by_number(info.func)
        names[info.func] = name
    end
    return name
end

-- Appends the frames of a thread from `level` up, leaf first.
local function add_frames(frames, thread, level)
    while true do
        local info = thread and debug.getinfo(thread, level, "Slf") or not thread and debug.getinfo(level, "Slf")
        if not info then
            return
        end
        frames[#frames + 1] = frame_text(info)
        level = level + 1
    end
end

local function record(thread, frames, samples, state)
    while thread ~= main_thread do
        local parent = resumed_by[thread]
        if parent == nil then
            return -- not yet known, or over
        end
        thread = parent or main_thread
        add_frames(frames, thread, 0)
    end
    for i = 1, math.floor(#frames / 2) do
        frames[i], frames[#frames + 1 - i] = frames[#frames + 1 - i], frames[i]
    end
    local stack = state .. "\t" .. table.concat(frames, ";")
    if not counts[stack] then
        counts[stack] = 0
        stacks[#stacks + 1] = stack
    end
    counts[stack] = counts[stack] + samples
end

-- jit.profile: stops at the next safe point, here in another thread of the VM.
local function on_profile(thread, samples, vmstate)
    main_thread = main_thread or thread -- the first one is seen in ready()
    local frames = {}
    add_frames(frames, thread, 0)
    record(thread, frames, samples, vmstate)
end
case.on_profile = on_profile

-- debug.sethook: stops at every call and every 1000 instructions; about one in a millisecond is taken. It sees the
-- entry of builtins, but not what is compiled.
local next_hook = 0
local function on_hook()
    local now = clock()
    if now < next_hook then
        return
    end
    state = (state * 1103515245 + 12345) % 2147483648
    next_hook = now + 0.002 * state / 2147483648
    local frames = {}
    add_frames(frames, nil, 3) -- getinfo, add_frames, on_hook
    record(coroutine.running() or main_thread, frames, 1, "H")
end
case.on_hook = on_hook

local function find_main_thread()
    local profile = require "jit.profile"
    profile.start("li1", function(thread) main_thread = thread end)
    local x = 0
    local limit = clock() + 5
    while not main_thread and clock() < limit do
        for i = 1, 1000 do x = x + i end
    end
    profile.stop()
    assert(main_thread, "another VM has the profiler")
end

function observe_start()
    name_builtins()
    find_main_thread()
    if observer == "profile" then
        require("jit.profile").start("li1", on_profile)
    else
        debug.sethook(on_hook, "c", 1000)
    end
end

function observe_stop()
    if observer == "profile" then
        require("jit.profile").stop()
    else
        debug.sethook()
    end
    local file = assert(io.open(output, "w"))
    for _, stack in ipairs(stacks) do
        file:write(counts[stack], "\t", stack, "\n")
    end
    file:close()
end

case.observe, case.stop = observe_start, observe_stop

return case
