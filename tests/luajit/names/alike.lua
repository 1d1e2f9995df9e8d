-- Three texts that begin alike, so that LuaJIT calls their chunks the same, each with a function on line 2 that only its
-- own chunk calls, by a name of its own: red, green and blue.
local function load_alike(name, factor)
    return assert(loadstring("return function(conf, ctx)\n    local function " .. name .. [[(n)
        local x = 0
        for i = 1, n do x = x + i % 7 end
        return x
    end
    local x = ]] .. name .. "(" .. factor .. "000)\n    return x\nend"))()
end

local handlers = { load_alike("red", 10), load_alike("green", 20), load_alike("blue", 30) }
if host then host.ready() else print("ready") io.flush() end
local stop = os.clock() + (tonumber(arg and arg[1] or ...) or 5)
local x = 0
while os.clock() < stop do
    for i = 1, 3 do x = x + handlers[i]() end
end
return x
