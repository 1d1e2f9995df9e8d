-- A VM with compiled code, which it counts itself, for `moonscope lua`.
--
--   compiled.lua [SECONDS]
--
-- Prints `traces COUNT BYTES`: how many there are, and the size of their machine code, as jit.util says. Then it stands still, with
-- a hook for returns and one for each 100 million instructions.
local seconds = tonumber(arg[1]) or 60
local util = require "jit.util"
jit.opt.start("hotloop=3")
local sum = 0
for round = 1, 40 do
    for i = 1, 50 do sum = sum + i % 7 end
    local list = {}
    for i = 1, 30 do list[i] = { i, tostring(i) } end
    table.sort(list, function(a, b) return a[1] > b[1] end)
    for _, one in ipairs(list) do if one[1] % 3 == 0 then sum = sum + #one[2] else sum = sum - 1 end end
end
jit.off()
local count, bytes = 0, 0
for trace = 1, 500 do
    local code = util.traceinfo(trace) and util.tracemc(trace)
    if code then count, bytes = count + 1, bytes + #code end
end
-- rare enough never to be called by its count
debug.sethook(function() end, "r", 1e8)
host.say(("traces %d %d\n"):format(count, bytes))
host.ready()
host.sleep(seconds)
