-- Coroutines that stand at known lines, and a VM that then blocks in C, for `moonscope stack`.
--
-- Prints, from LuaJIT's own debug library, what each coroutine's stack is (innermost first), then `ready`:
--
--   truth NAME STATUS FILE:LINE:DEFINED;...      a C function or builtin is `[C]`
--
-- Runs with `host`, or with LuaJIT's own program and `none` for what blocks.
local seconds = tonumber(arg[1]) or 60
local file = debug.getinfo(1, "S").source:match "[^/]+$"

local function stack_of(co)
    local frames = {}
    local level = 0
    while true do
        local info = co and debug.getinfo(co, level, "Sl") or not co and debug.getinfo(level + 2, "Sl")
        if not info then
            return table.concat(frames, ";")
        end
        frames[#frames + 1] = info.what == "C" and "[C]"
            or ("%s:%d:%d"):format(info.source:match "[^/]+$", info.currentline, info.linedefined)
        level = level + 1
    end
end

local lines = {}
local kept = {}
local function tell(name, co)
    kept[#kept + 1] = co
    lines[#lines + 1] = ("truth %s %s %s"):format(name, co and coroutine.status(co) or "running", stack_of(co))
end

-- suspended in a nested call
local function wait_deep(n)
    if n == 0 then
        coroutine.yield()
    else
        wait_deep(n - 1)
    end
    return n
end
local deep = coroutine.create(function() wait_deep(5) return 1 end)
coroutine.resume(deep)
tell("deep", deep)

-- with variable arguments, through pcall, behind a metamethod and an iterator
local function varied(...)
    local proxy = setmetatable({}, { __index = function(_, key) coroutine.yield(key) return key end })
    local ok = pcall(function() return proxy.x .. "y" end)
    return ok, ...
end
local through = coroutine.create(varied)
coroutine.resume(through, 1, 2, 3)
tell("through", through)

-- many at one place
local function wait_many() coroutine.yield() return 1 end
for i = 1, 1000 do
    local one = coroutine.create(wait_many)
    coroutine.resume(one)
    kept[#kept + 1] = one
    if i == 1 then
        tell("many", one)
    end
end

-- never resumed; ended; ended with an error
local function never() coroutine.yield() end
kept[#kept + 1] = coroutine.create(never)
local ended = coroutine.create(function() return 1 end)
coroutine.resume(ended)
kept[#kept + 1] = ended
local function fails() error("on purpose") end
local failed = coroutine.create(function() fails() return 1 end)
coroutine.resume(failed)
tell("failed", failed)

-- a coroutine in a coroutine, the inner one blocked in C
local outer
local function inner_body()
    lines[#lines + 1] = ("truth outer normal %s"):format(stack_of(outer))
    tell("inner")
    local text = table.concat(lines, "\n") .. "\n"
    if host then
        host.say(text)
        host.ready()
        host.sleep(seconds)
    else
        io.write(text, "ready\n")
        io.flush()
        io.read()
    end
end
local function outer_body()
    local inner = coroutine.wrap(inner_body)
    inner()
    return 1
end
outer = coroutine.create(outer_body)
kept[#kept + 1] = outer
local ok, message = coroutine.resume(outer)
assert(ok, message)
return #kept
