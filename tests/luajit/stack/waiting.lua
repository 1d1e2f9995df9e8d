-- Requests that wait, and what LuaJIT's own debug library says of their coroutines: the old question of ngx-lua-bt.

local waiting = {}

-- every coroutine that waits, and what it is called
local names = setmetatable({}, { __mode = "k" })
local SECONDS = 600

local function wait(name)
    names[coroutine.running()] = name
    ngx.sleep(SECONDS)
    return name
end

local function nested(name, depth)
    if depth == 0 then
        return (wait(name))
    end
    return (nested(name, depth - 1))
end

function waiting.sleep()
    nested("sleep", 3)
    ngx.say "ok"
end

local function thread_body(name)
    wait(name)
    return name
end

-- a light thread waits, and so does who waits for it
function waiting.spawn()
    local thread = ngx.thread.spawn(thread_body, "thread")
    names[coroutine.running()] = "spawn"
    local ok = ngx.thread.wait(thread)
    return ok
end

-- ngx_lua replaces coroutine.resume: the outer one yields to its scheduler, which resumes the inner one
function waiting.coroutine()
    local inner = coroutine.create(function() wait("inner") return 1 end)
    names[coroutine.running()] = "outer"
    local ok = coroutine.resume(inner)
    return ok
end

-- a peer that never says anything: our own listening socket
function waiting.socket()
    local socket = ngx.socket.tcp()
    socket:settimeout(SECONDS * 1000)
    assert(socket:connect("127.0.0.1", ngx.var.server_port))
    names[coroutine.running()] = "socket"
    local line = socket:receive "*l"
    return line
end

local function stack_of(co)
    local frames, level = {}, 0
    while true do
        local info = debug.getinfo(co, level, "Sl")
        if not info then
            return table.concat(frames, ";")
        end
        frames[#frames + 1] = info.what == "C" and "[C]"
            or ("%s:%d:%d"):format(info.source:gsub("^[@=]", ""):match "[^/]+$", info.currentline, info.linedefined)
        level = level + 1
    end
end

-- truth NAME STATUS FILE:LINE:DEFINED;...        innermost first, as tests/luajit/stack/suspended.lua
function waiting.truth()
    for co, name in pairs(names) do
        ngx.say(("truth %s suspended %s"):format(name, stack_of(co)))
    end
end

return waiting
