-- Goes through all ways in and out of the VM, a few times each.
local has_ffi, ffi = pcall(require, "ffi")

local function leaf(a, b) return math.floor(a / 3) % (b + 1) end
local function fails() error("x", 0) end
local callable = setmetatable({}, { __call = function(_, s) return s end })

local function calls()
  leaf(10, 3)
  math.ceil(2.5)
  string.rep("a", 3)
  local t = { 3, 1, 2, 5, 4 }
  table.sort(t, function(a, b) return a < b end)
  string.gsub("abc", "%w", function(c) return c end)
  string.gsub("abc", "%w", callable)
  pcall(leaf, 1, 2)
  pcall(fails)
  xpcall(fails, function(e) return e end)
  pcall(string.gsub, "abc", "%w", fails)
  pcall(string.gsub, "abc", "%w", function() pcall(fails) error({}) end)
  tostring(setmetatable({}, { __tostring = function() return "t" end }))
  local m = setmetatable({}, { __index = function(_, k) return k end, __add = function() return 1 end,
    __concat = function() return "c" end, __eq = function() return true end, __lt = function() return true end })
  return m.x, m + 1, m .. "a", m < m
end

local function coroutines()
  local co = coroutine.wrap(function(a)
    for i = 1, 3 do a = coroutine.yield(i) end
    return leaf(7, 2)
  end)
  for _ = 1, 4 do co(1) end
  local inner = coroutine.create(function() string.gsub("a", "a", function() end) fails() end)
  coroutine.resume(inner)
  coroutine.resume(inner)
  local stopped = coroutine.create(function() coroutine.yield() end)
  coroutine.resume(stopped)
end

local function variable(...) return select("#", ...), ... end

local function callbacks()
  if not has_ffi then return end
  ffi.cdef [[
    typedef int (*compare)(const void *, const void *);
    void qsort(void *, size_t, size_t, compare);
    int abs(int);
  ]]
  local array = ffi.new("int[4]", 3, 1, 2, 0)
  local cb = ffi.cast("compare", function(a, b)
    return ffi.cast("const int *", a)[0] - ffi.cast("const int *", b)[0]
  end)
  ffi.C.qsort(array, 4, 4, cb)
  cb:free()
  local sum = 0
  for i = 1, 100 do sum = sum + ffi.C.abs(-i) end
end

local function compiled()
  local sum, t = 0, {}
  for i = 1, 90 do
    sum = sum + leaf(i, 5)
    if i % 7 == 0 then sum = sum + #tostring(i) end
    t[i % 5 + 1] = { i }
  end
  for _ = 1, 120 do
    local ok = pcall(function(i) if i > 60 then error("late", 0) end end, sum)
    if ok then break end
  end
  for k, v in pairs(t) do sum = sum + v[1] end
  return sum
end

do
  calls()
  coroutines()
  variable(1, 2, 3)
  compiled()
  callbacks()
  loadstring("return 1 + ")
  loadstring("return 1")()
end
collectgarbage("step")
