-- Functions without source that are reached by tail calls: `work` is what runs, and nobody calls it by that name.
-- `truth work LINE`: where it is defined.
local text = [[
local say = ...
local function work(n)
    if n == 0 then say("truth work " .. debug.getinfo(1, "S").linedefined) end
    local x = 0
    for i = 1, n do x = x + i % 7 end
    return x
end
local function dispatch(n) return work(n) end
local layers = { auth = function(n) return dispatch(n) end }
return function(n)
    local x = layers.auth(n)
    local y = dispatch(n)
    return x + y
end
]]
local say = host and function(line) host.say(line .. "\n") end or print
local run = assert(loadstring(text, "=gone"))(say)
run(0)
if host then host.ready() else print("ready") io.flush() end
local stop = os.clock() + (tonumber(arg and arg[1] or ...) or 5)
local x = 0
while os.clock() < stop do x = run(20000) end
return x
