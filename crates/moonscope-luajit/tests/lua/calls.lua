-- Every way to call. A line that calls says whom: the stack of any moment must follow these remarks.
local ffi_ok, ffi = pcall(require, "ffi")
local sink, seen = {}, 0
local floor = math.floor

local function leaf(n) --> name leaf
  local x = n % 7 + floor(n / 3)
  if x > 3 then sink[1] = x else sink[2] = x end
  return x
end

local function twice(n) --> name twice
  local x = leaf(n) --> leaf
  x = x + leaf(n + 1) --> leaf
  return x
end

local function tail(n) --> name tail
  if n > 5 then sink[3] = n end
  return twice(n) -- a tail call leaves no frame
end

local function variable(...) --> name variable
  local a, b = ...
  local x = twice(a) + select("#", ...) --> twice
  if b then x = x + leaf(b) end --> leaf
  return x
end

local function fibonacci(n) --> name fibonacci
  if n < 2 then return leaf(n) * 0 + n end --> leaf
  return fibonacci(n - 1) + fibonacci(n - 2) --> fibonacci
end

local function down(n) --> name down
  if n == 0 then return 0 end
  local x = 1 + down(n - 1) --> down
  sink[5] = x
  return x
end

local function failing(n) --> name failing
  if leaf(n) >= 0 and n % 3 == 0 then error("no") end --> leaf handler
  return twice(n) -- a tail call
end

local function handler(message) --> name handler
  seen = seen + leaf(#message) --> leaf
  return message
end

local function protected(n) --> name protected
  local x = 0
  for i = 1, 30 do
    local ok, y = pcall(twice, n + i) --> twice
    if ok then x = x + y end
  end
  for i = 1, 3 do
    xpcall(failing, handler, i) --> failing twice handler
    pcall(failing, i) --> failing twice
  end
  return x
end

local meta = {}
meta.__index = function(t, k) --> name index
  local x = leaf(#k) --> leaf
  return x
end
meta.__add = function(a, b) --> name add
  local x = leaf(3) --> leaf
  return x
end
meta.__lt = function(a, b) --> name less
  local x = leaf(4) --> leaf
  return x < 2
end
meta.__concat = function(a, b) --> name concat
  local x = leaf(5) --> leaf
  return "x"
end
meta.__call = function(self, n) --> name call
  local x = leaf(n) --> leaf
  return x
end
meta.__eq = function(a, b) --> name equal
  local x = leaf(6) --> leaf
  return x == 1
end
meta.__newindex = function(t, k, v) --> name newindex
  local x = leaf(v) --> leaf
  sink[6] = x
end
local object, other = setmetatable({}, meta), setmetatable({}, meta)

local function metamethods(n) --> name metamethods
  local x = 0
  for i = 1, 40 do
    x = x + object.field --> index
    x = x + (object + i) --> add
    if object < other then x = x + 1 end --> less
    x = x + object(i) --> call
    object.other = i --> newindex
    if object == other then x = x + 1 end --> equal
    local s = object .. i --> concat
  end
  return x
end

local function compare(a, b) --> name compare
  leaf(a) --> leaf
  return a < b
end

local function replace(c) --> name replace
  local x = leaf(#c) --> leaf
  return x
end

local function callbacks(n) --> name callbacks
  local t = {5, 3, 8, 1, 9, 2}
  table.sort(t, compare) --> compare
  local s = string.gsub("abcdef", "%w", replace) --> replace
  return #s
end

local function body(n) --> name body
  for i = 1, 20 do
    local x = variable(i, n) --> variable
    coroutine.yield(x)
  end
  return 0
end

local function inner(n) --> name inner
  local next = coroutine.wrap(body)
  for i = 1, 15 do leaf(next(n)) end --> leaf
  coroutine.yield(1)
  return fibonacci(8) -- a tail call
end

local function coroutines(n) --> name coroutines
  local co = coroutine.create(inner)
  local ok, x = coroutine.resume(co, n)
  ok, x = coroutine.resume(co, n)
  return x
end

local function iterator(limit, i) --> name iterator
  i = i + 1
  if i <= limit then return i end
end

local function iterate(n) --> name iterate
  local x = 0
  for i in iterator, 50, 0 do --> iterator
    x = x + tail(i) --> tail twice
  end
  return x
end

local poly = {}
for i = 1, 8 do
  poly[i] = function(n) --> name closure
    local x = leaf(n + i) --> leaf
    sink[i] = x
    return x + i
  end
end

local function closures(n) --> name closures
  local x = 0
  for i = 1, 80 do
    x = x + poly[i % 8 + 1](i) --> closure
  end
  return x
end

local function stitched(n) --> name stitched
  local x = 0
  for i = 1, 100 do
    x = x + leaf(i) --> leaf
    collectgarbage("count")
    x = x + #string.rep("x", i % 5)
    os.time()
  end
  return x
end

local callback
if ffi_ok then
  ffi.cdef("void qsort(void *, size_t, size_t, int (*)(const int *, const int *));")
  callback = ffi.cast("int (*)(const int *, const int *)", function(a, b) --> name ordered
    leaf(3) --> leaf
    return a[0] - b[0]
  end)
end

local function foreign(n) --> name foreign
  if not callback then return end
  local numbers = ffi.new("int[8]", 5, 3, 8, 1, 9, 2, 7, 4)
  ffi.C.qsort(numbers, 8, 4, callback) --> ordered
end
if jit then jit.off(foreign) end

local function collected(object) --> name collected
  leaf(2) --> leaf
end --> anywhere collected

local function garbage(n) --> name garbage
  for i = 1, 5 do
    local object = newproxy(true)
    getmetatable(object).__gc = collected
  end
end

local all = {
  twice, variable, fibonacci, down, protected, metamethods, callbacks, coroutines, iterate, closures, stitched,
  foreign, garbage,
}
local arguments = { 3, 4, 12, 60, 5, 6, 7, 8, 9, 10, 11, 12, 13 }
local function round() --> name round
  for i = 1, #all do
    for _ = 1, 3 do
      all[i](arguments[i]) --> twice variable fibonacci down protected metamethods callbacks coroutines iterate closures stitched foreign garbage
    end
  end
end

for i = 1, 300 do round() end --> round
io.write("ready\n")
io.flush()
while true do round() end --> round
