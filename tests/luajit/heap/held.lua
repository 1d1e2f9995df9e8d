-- A VM of which is known who holds what, for `moonscope lua objects --who`.
--
--   held.lua [SECONDS]
--
-- Prints `holds WHAT BYTES` by the VM's own counter (collectgarbage "count"), and stands still.
local seconds = tonumber(arg[1]) or 60
jit.off()
local function bytes() return collectgarbage("count") * 1024 end
collectgarbage()
collectgarbage("stop")

local said = {}
local function grown(what, make)
    local before = bytes()
    make()
    said[#said + 1] = { what, bytes() - before }
end

-- a module with a field, whose keys are names of people
local store = { users = false, settings = { color = "dark blue" } }
package.loaded["held.store"] = store
grown("users", function()
    local users = {}
    for i = 1, 2000 do users["alice_" .. i] = { id = i, mail = "alice" .. i .. "@example.org" } end
    store.users = users
end)

-- a variable of a function of a module
local cache = {}
function store.lookup(key) return cache[key] end
grown("cache", function()
    for i = 1, 3000 do cache[i] = { i, i } end
end)

-- a global
grown("global", function()
    queue = {}
    for i = 1, 1000 do queue[i] = ("item of the queue, number " .. i):rep(4) end
end)

-- on the stack of a coroutine that nothing but the registry of the library refers to
local waiting = coroutine.create(function()
    local rows = {}
    for i = 1, 500 do rows[i] = { i, i, i, i, i, i, i, i } end
    coroutine.yield()
    return rows
end)
grown("coroutine", function() coroutine.resume(waiting) end)
debug.getregistry().held_waiting = waiting
waiting = nil

-- what nothing refers to
grown("garbage", function()
    local lost = {}
    for i = 1, 700 do lost[i] = { i, i, i } end
end)

-- what a weak table refers to is held by nobody
weak = setmetatable({}, { __mode = "v" })
for i = 1, 10 do weak[i] = store end

for _, line in ipairs(said) do host.say(("holds %s %d\n"):format(line[1], line[2])) end
host.ready()
host.sleep(seconds)
