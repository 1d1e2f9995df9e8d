-- C functions that compiled code calls through the FFI: each of them by one Lua function alone, in the forms that
-- OpenResty's own library has.
--
--   host ffi.lua SECONDS
--
-- memfrob: direct; swab: wrapped (by a function that hands over with a tail call, and is not on the stack then);
-- strverscmp: variable; argz_count: branches; wcsspn: returning (with no side exit behind the call); envz_entry: shared, a
-- quarter of it below `quarter`.
local ffi = require "ffi"

ffi.cdef [[
void *memfrob(void *s, size_t n);
void swab(const void *from, void *to, ssize_t n);
int strverscmp(const char *s1, const char *s2);
size_t argz_count(const char *argz, size_t len);
size_t wcsspn(const int *s, const int *accept);
char *envz_entry(const char *envz, size_t len, const char *name);
]]

local SIZE = 4000
local bytes = ffi.new("char[?]", SIZE)
local other = ffi.new("char[?]", SIZE)
local digits = ffi.new("char[?]", SIZE + 1)
ffi.fill(digits, SIZE, 0x31)
local same_digits = ffi.new("char[?]", SIZE + 1)
ffi.copy(same_digits, digits, SIZE)
local words = ffi.new("char[?]", SIZE)
for i = 0, SIZE - 1, 4 do
    ffi.copy(words + i, "abc", 3)
end

local wide = ffi.new("int[?]", SIZE / 2 + 1)
for i = 0, SIZE / 2 - 1 do
    wide[i] = 0x31
end
local one = ffi.new("int[2]", { 0x31, 0 })

local function checked(size)
    if type(size) ~= "number" then
        error "not a number"
    end
    return size
end

local function direct(size)
    local n = checked(size)
    local result = ffi.C.memfrob(bytes, n) -- @direct
    return result ~= nil and n or 0
end

local swab = function(from, to, size)
    return ffi.C.swab(from, to, size)
end

local function wrapped(size)
    local n = checked(size)
    swab(bytes, other, n) -- @wrapped
    return n
end

-- as with `if subsystem == "http" then ngx_lua_ffi_x = C.ngx_http_lua_ffi_x`: not a constant of the trace
local compare
if SIZE > 0 then
    compare = ffi.C.strverscmp
end

local function variable(n)
    n = checked(n)
    local rc = compare(digits, same_digits) -- @variable
    if rc ~= 0 then
        return 0
    end
    return n
end

local function branches(which, n)
    local count
    if type(which) == "number" then
        count = ffi.C.argz_count(words, n) -- @branches
    else
        local size = checked(n)
        count = ffi.C.argz_count(words, size) -- @branches
    end
    if count == 0 then
        return 0
    end
    return n
end

local function quarter(n)
    ffi.C.envz_entry(words, n, "none") -- @quarter
end

local function returning(n)
    if n < 0 then
        return
    end
    ffi.C.wcsspn(wide, one) -- @returning
end

local function shared(n)
    quarter(n)
    ffi.C.envz_entry(words, n, "none") -- @shared
    ffi.C.envz_entry(words, n, "none") -- @shared
    ffi.C.envz_entry(words, n, "none") -- @shared
    return n
end

local function outer(count)
    local sum = 0
    for _ = 1, count do
        returning(SIZE)
        sum = sum + direct(SIZE) + wrapped(SIZE) + variable(SIZE) + branches("text", SIZE) + shared(SIZE)
    end
    return sum
end

print "ready"
io.stdout:flush()
local finish = os.time() + tonumber(arg[1])
while os.time() < finish do
    outer(1000)
end
