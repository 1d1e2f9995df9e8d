-- What the requests of nginx.conf.in do, for a time that they measure themselves.

local waits = {}

local function now()
    ngx.update_time()
    return ngx.now()
end

-- ---- the whole worker is blocked ---------------------------------------------------------------------------------

local SECONDS = 0.06
local block = {}

-- on the CPU, by the clock on the wall
function block.burn()
    local deadline = now() + SECONDS
    local sink = 0
    repeat
        for i = 1, 1000 do sink = (sink + i) % 1021 end -- @burn
    until now() >= deadline -- @burn
end

-- a program, and nothing runs here meanwhile
function block.execute()
    os.execute("sleep " .. SECONDS) -- @execute
end

function block.popen()
    local pipe = io.popen("sleep " .. SECONDS .. "; echo done")
    pipe:read "*a" -- @popen
    pipe:close()
end

-- truth NAME SECONDS
function waits.block(name)
    local start = now()
    block[name]()
    ngx.say(("truth %s %.3f"):format(name, now() - start))
end

-- ---- only the request waits --------------------------------------------------------------------------------------

local DELAY = 0.25
local wait = {}

local function nested(depth)
    if depth > 0 then
        return (nested(depth - 1))
    end
    ngx.sleep(DELAY) -- @sleep
    return 1
end

function wait.sleep()
    nested(2)
end

function wait.receive()
    local socket = ngx.socket.tcp()
    assert(socket:connect("127.0.0.1", ngx.var.server_port))
    assert(socket:send "GET /slow HTTP/1.0\r\n\r\n")
    socket:receive "*a" -- @receive
    socket:close()
end

function wait.semaphore()
    local semaphore = require("ngx.semaphore").new(0)
    semaphore:wait(DELAY) -- @semaphore
end

local function thread_body()
    ngx.sleep(DELAY) -- @thread_body
end

function wait.thread()
    local thread = ngx.thread.spawn(thread_body)
    ngx.thread.wait(thread) -- @thread
end

function wait.capture()
    ngx.location.capture "/slow" -- @capture
end

function waits.slow()
    ngx.sleep(DELAY) -- @slow
    ngx.say "ok"
end

-- longer than any test; how many do so
waits.waiting = 0
function waits.long()
    waits.waiting = waits.waiting + 1
    ngx.sleep(600) -- @long
    ngx.say "ok"
end

function waits.wait(name)
    wait[name]()
    if ngx.get_phase() == "content" then
        ngx.say "ok"
    end
end

return waits
