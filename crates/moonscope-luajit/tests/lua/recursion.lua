-- Recursion that the compiler turns into traces which move their base: up, down, and by tail calls.
local out = {}

local function add(n) --> name add
  if n == 0 then return 0 end
  out[1] = n
  local x = n + add(n - 1) --> add
  out[2] = x
  return x
end --> most 41 add

local c
local function a(n) --> name a
  if n <= 0 then return 1 end
  return 1 + c(n - 1) --> c
end --> most 11 a

local function b(n) --> name b
  if n <= 0 then return 2 end
  out[3] = n
  return 2 + a(n - 1) --> a
end --> most 11 b

function c(n) --> name c
  if n <= 0 then return 3 end
  local x = 3 + b(n - 1) --> b
  out[4] = x
  return x
end --> most 11 c

local function spin(n, x) --> name spin
  if n == 0 then return x end
  out[5] = x
  return spin(n - 1, x + n) -- a tail call
end --> most 1 spin

local function tree(n) --> name tree
  if n < 2 then return n end
  local x = tree(n - 1) --> tree
  return x + tree(n - 2) --> tree
end --> most 13 tree

local function swap(n, x) --> name swap
  out[6] = x
  if n % 2 == 0 then return spin(3, x) end -- a tail call
  return spin(2, x) + 1 --> spin
end

local function round() --> name round
  local x = 0
  for i = 1, 20 do
    x = x + add(40) --> add
    x = x + a(30) --> a
    x = x + spin(50, 1) --> spin
    x = x + tree(12) --> tree
  end
  for i = 1, 200 do
    x = x + swap(i, x % 7) --> swap spin
  end
  return x
end

for i = 1, 200 do round() end --> round
io.write("ready\n")
io.flush()
while true do round() end --> round
