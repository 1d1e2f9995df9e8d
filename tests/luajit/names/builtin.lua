-- A builtin with code in C: `string.gsub`, `lj_cf_string_gsub` for LuaJIT.
local function each(word)
    return #word > 3 and "y" or "n"
end

local words = ("word "):rep(1000)
print "ready"
io.stdout:flush()
local finish = os.time() + tonumber(arg[1])
while os.time() < finish do
    words:gsub("%a+", each)
end
