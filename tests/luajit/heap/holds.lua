-- A VM that knows how many objects of each type it holds, for `moonscope lua`.
--
--   FACTOR=1 holds.lua SECONDS
--
-- Makes objects of each type, FACTOR times as many of them, and prints, before it stands still for SECONDS:
--
--   more TYPE COUNT [BYTES]   how many it has made; if they are all that was made then, by how much the VM's own counter grew
--   settings PAUSE STEPMUL    as set with collectgarbage
--   total BYTES               the VM's counter at the very end (collectgarbage "count")
--
-- Two of them with different factors differ by just these. Runs with `host`.
local seconds, factor = tonumber(arg[1]) or 60, tonumber(os.getenv "FACTOR") or 1
jit.off()
jit.flush()
local has_ffi, ffi = pcall(require, "ffi")
local has_buffer, buffer = pcall(require, "string.buffer")

local pause, stepmul = 170, 350
collectgarbage("setpause", pause)
collectgarbage("setstepmul", stepmul)

local count = collectgarbage
local said = {}
local kept, nr_kept = {}, 0
local function bytes() return count("count") * 1024 end

-- Calls one(i) so many times, and keeps what it returns in an array that is large enough before. Each call makes what
-- `effects` says.
local function make(effects, number, one)
    number = number * factor
    local into = {}
    for i = 1, number do into[i] = false end
    one(0)
    local before = bytes()
    for i = 1, number do into[i] = one(i) end
    local grown = bytes() - before
    nr_kept = nr_kept + 1
    kept[nr_kept] = into
    local kind = next(effects)
    for each, times in pairs(effects) do
        said[#said + 1] = { each, times * number, next(effects, kind) == nil and grown or -1 }
    end
end
for i = 1, 16 do kept[i] = false end

collectgarbage()
-- nothing of what is made is collected, and nothing else is
collectgarbage("stop")
local names = {}
make({ strings = 1 }, 1000, function(i) return "held " .. i * 7919 end)
make({ tables = 1 }, 500, function() return {} end)
make({ tables = 1 }, 300, function(i) return { i, i, i } end)
make({ tables = 1 }, 200, function(i) return { a = i, b = i, c = i } end)
make({ tables = 1 }, 50, function(i)
    local array = {}
    for j = 1, 40 do array[j] = j end
    return array
end)
make({ functions = 1 }, 400, function() return function() return names end end)
make({ threads = 1 }, 100, function() return coroutine.create(print) end)
make({ userdata = 1 }, 80, function() return newproxy() end)
if has_ffi then
    local point = ffi.typeof("struct { double x, y; int z; }")
    make({ cdata = 1 }, 150, function() return ffi.new(point) end)
    local text = ffi.typeof("char[?]")
    make({ cdata = 1 }, 70, function(i) return ffi.new(text, i * 10) end)
end
if has_buffer then
    local part = ("x"):rep(100)
    make({ userdata = 1 }, 20, function(i)
        local one = buffer.new()
        for _ = 1, i do one:put(part) end
        return one
    end)
end
-- its text is a string, and the compiler's own table of constants is garbage behind it (lj_parse.c, fs_init)
make({ prototypes = 1, functions = 1, strings = 1, tables = 1 }, 60, function(i) return loadstring("return " .. i, "=held") end)
-- a function with a variable that outlives its scope
make({ functions = 1, upvalues = 1 }, 250, function(i)
    local x = i
    return function() x = x + 1 return x end
end)
-- upvalues that are open: a coroutine stands in the function that has these variables. Three functions: that one, the one that
-- has them too, and what wrap makes
make({ threads = 1, functions = 3, upvalues = 2 }, 30, function()
    local resume = coroutine.wrap(function()
        local one, two = 1, 2
        local function get() return one + two end
        coroutine.yield()
        return get
    end)
    resume()
    return resume
end)

local lines = {}
for i, line in ipairs(said) do
    lines[i] = line[3] < 0 and ("more %s %d\n"):format(line[1], line[2])
        or ("more %s %d %d\n"):format(line[1], line[2], line[3])
end
lines[#lines + 1] = ("settings %d %d\n"):format(pause, stepmul)
host.say(table.concat(lines))
-- The text that says the total is a string itself: as large as one with as many digits.
local words = "total %d\n"
local function size_of(total)
    local before = bytes()
    words:format(total)
    return bytes() - before
end
local size = size_of(bytes() + 1)
host.say(words:format(bytes() + size))
host.ready()
host.sleep(seconds)
