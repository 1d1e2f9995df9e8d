-- LuaJIT's own idea of the stacks of a program, sampled inside of it: what grammars are checked against.
--
--   local observe = dofile "observe.lua"
--   local observer = observe.new(kind, clock)     -- kind: "profile" or "hook"; clock: CPU time in seconds
--   observer.start(nested)                        -- nested: coroutines lie on what resumed them (not so in ngx_lua)
--   observer.resumed_by(parent)                   -- first in each coroutine, then; parent: coroutine.running() outside
--   text = observer.stop()                        -- lines: COUNT tab STATE tab FRAME;FRAME;... from root to leaf
--
-- profile: LuaJIT's profiler, which stops at the next safe point. hook: every call and every 1000 instructions, of which
-- about one in a millisecond is taken; it sees the entry of builtins, but nothing that is compiled. STATE is the
-- profiler's (N compiled, I interpreted, C, G, J), or H for a hook.
--
-- FRAME: FILE:DEFINED:CURRENT of a Lua function, [b]NAME of a builtin, [c]SYMBOL of another C function, ? if unknown.

local observe = {}

local util = require "jit.util"
local has_ffi, ffi = pcall(require, "ffi")

local function add_library(names, prefix, library)
    for key, value in pairs(library) do
        if type(value) == "function" and type(key) == "string" and util.funcinfo(value).ffid then
            names[value] = names[value] or "[b]" .. prefix .. key
        end
    end
end

local function names_of_builtins()
    local names = {}
    for _, name in ipairs { "string", "table", "math", "io", "os", "coroutine", "debug", "bit", "jit", "ffi" } do
        add_library(names, name .. ".", package.loaded[name] or {})
    end
    add_library(names, "", _G)
    add_library(names, "io.method.", getmetatable(io.stdout))
    if has_ffi then
        add_library(names, "ffi.meta.", debug.getmetatable(ffi.new("int64_t")))
        add_library(names, "ffi.clib.", debug.getmetatable(ffi.C))
    end
    -- In LuaJIT's lib_package.c these are plain C functions.
    names[require] = "[c]lj_cf_package_require"
    for i, kind in ipairs { "preload", "lua", "c", "croot" } do
        names[package.loaders[i] or 0] = "[c]lj_cf_package_loader_" .. kind
    end
    return names
end

-- Functions that no table holds.
local function name_by_number(func)
    local info = util.funcinfo(func)
    if not info.ffid then
        return "[c]" .. (host and host.symbol(info.addr) or "?")
    end
    local wrapped = coroutine.wrap(function() end)
    return info.ffid == util.funcinfo(wrapped).ffid and "[b]coroutine.wrap_aux" or "[b]?"
end

function observe.new(kind, clock)
    local observer = {}
    local names, counts, stacks = {}, {}, {}
    local nested, main_thread = false, nil
    local resumers = setmetatable({}, { __mode = "k" }) -- false: the main thread

    function observer.resumed_by(parent)
        local this = coroutine.running()
        if this then
            resumers[this] = parent or false
        end
    end

    local function frame_text(info)
        if info.what ~= "C" then
            return info.source:gsub("^[@=]", ""):gsub("^.*/", "") .. ":" .. info.linedefined .. ":" .. info.currentline
        end
        names[info.func] = names[info.func] or name_by_number(info.func)
        return names[info.func]
    end

    -- Appends the frames of a thread (nil: this one) from `level` up, leaf first.
    local function add_frames(frames, thread, level)
        while true do
            local info
            if thread then
                info = debug.getinfo(thread, level, "Slf")
            else
                info = debug.getinfo(level, "Slf")
            end
            if not info then
                return
            end
            frames[#frames + 1] = frame_text(info)
            level = level + 1
        end
    end

    local function record(thread, frames, samples, state)
        while nested and thread ~= main_thread do
            local parent = resumers[thread]
            if parent == nil then
                return -- it has not yet said so
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

    local function on_profile(thread, samples, vmstate)
        local frames = {}
        add_frames(frames, thread, 0)
        record(thread, frames, samples, vmstate)
    end

    local next_hook, random = 0, 1
    local function on_hook()
        local now = clock()
        if now < next_hook then
            return
        end
        local frames = {}
        add_frames(frames, nil, 3) -- getinfo, add_frames, on_hook
        record(coroutine.running() or main_thread, frames, 1, "H")
        random = (random * 1103515245 + 12345) % 2147483648
        next_hook = clock() + 0.002 * random / 2147483648
    end

    -- Nothing but a sample tells which thread is the main one.
    local function find_main_thread()
        local profile = require "jit.profile"
        profile.start("li1", function(thread) main_thread = thread end)
        local x, limit = 0, clock() + 5
        while not main_thread and clock() < limit do
            for i = 1, 1000 do x = x + i end
        end
        profile.stop()
        assert(main_thread, "another VM has the profiler")
    end

    function observer.start(is_nested)
        nested = is_nested
        names = names_of_builtins()
        if nested then
            find_main_thread()
        end
        if kind == "profile" then
            require("jit.profile").start("li1", on_profile)
        else
            debug.sethook(on_hook, "c", 1000)
        end
    end

    function observer.stop()
        if kind == "profile" then
            require("jit.profile").stop()
        else
            debug.sethook()
        end
        for i, stack in ipairs(stacks) do
            stacks[i] = counts[stack] .. "\t" .. stack .. "\n"
        end
        return table.concat(stacks)
    end

    return observer
end

return observe
