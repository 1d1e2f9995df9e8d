-- Functions that begin on one line with what they call back, as real code has them.
--
--   host oneline.lua SECONDS
local deadline = os.time() + tonumber(arg[1])
local function slow(c) local s = 0 for i = 1, 400 do s = (s * 31 + i) % 1000003 end return s > 0 and c end
local function escape(s) local r = s:gsub("[<>&]", function(c) local v = slow(c) return v end) return r end
io.write "ready\n"; io.flush()
while os.time() < deadline do
    for _ = 1, 1000 do local a = escape("<a><b>&") end
end
