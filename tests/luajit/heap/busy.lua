-- A VM that allocates as fast as it can, on a heap of which 20000 tables and as many strings are always in use, for `moonscope lua`.
--
--   busy.lua [SECONDS]
local seconds = tonumber(arg[1]) or 10
local keep = {}
for i = 1, 20000 do keep[i] = { i, "first " .. i } end
host.ready()
local stop, n = os.time() + seconds, 0
while os.time() < stop do
    for _ = 1, 1000 do
        n = n + 1
        keep[n % 20000 + 1] = { n, "later " .. n, { n } }
    end
end
