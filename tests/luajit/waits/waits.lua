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

return waits
