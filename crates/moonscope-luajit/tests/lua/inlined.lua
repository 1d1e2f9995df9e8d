-- A hot loop with three calls that the compiler inlines, which do 1, 2 and 3 parts of the work. Divisions
-- that wait for each other cost the same compiled and interpreted; comparisons and stores make side exits.
local out = {}

local function one(x) --> name one
  if x < 1 then return 1e9 end
  x = x / 1.01 / 1.02 / 1.03 / 1.04 / 1.05 / 1.06 / 1.07 / 1.08 / 1.09 / 1.10
  out[1] = x
  return x
end

local function two(x) --> name two
  if x < 1 then return 1e9 end
  x = x / 1.01 / 1.02 / 1.03 / 1.04 / 1.05 / 1.06 / 1.07 / 1.08 / 1.09 / 1.10
  out[2] = x
  if x < 1 then return 1e9 end
  x = x / 1.01 / 1.02 / 1.03 / 1.04 / 1.05 / 1.06 / 1.07 / 1.08 / 1.09 / 1.10
  out[3] = x
  return x
end

local function three(x) --> name three
  if x < 1 then return 1e9 end
  x = x / 1.01 / 1.02 / 1.03 / 1.04 / 1.05 / 1.06 / 1.07 / 1.08 / 1.09 / 1.10
  out[4] = x
  if x < 1 then return 1e9 end
  x = x / 1.01 / 1.02 / 1.03 / 1.04 / 1.05 / 1.06 / 1.07 / 1.08 / 1.09 / 1.10
  out[5] = x
  if x < 1 then return 1e9 end
  x = x / 1.01 / 1.02 / 1.03 / 1.04 / 1.05 / 1.06 / 1.07 / 1.08 / 1.09 / 1.10
  out[6] = x
  return x
end

local function work(n) --> name work
  local x = 1e9
  for i = 1, n do
    x = one(x) --> one
    x = two(x) --> two
    x = three(x) --> three
  end
  return x
end

work(10000) --> work
io.write("ready\n")
io.flush()
while true do work(100000) end --> work
