-- Signed tokens (payload.signature, HMAC-SHA1) and passwords (PBKDF2 of the libcrypto that nginx is linked with).

local cjson = require "cjson.safe"
local ffi = require "ffi"

local _M = {}

local SECRET = "only for the demo"
local LIFETIME_S = 3600
local PASSWORD_ROUNDS = 2000
local KEY_BYTES = 32

ffi.cdef [[
const void *EVP_sha256(void);
int PKCS5_PBKDF2_HMAC(const char *pass, int passlen, const unsigned char *salt, int saltlen,
                      int iter, const void *digest, int keylen, unsigned char *out);
]]

local key_buffer = ffi.new("unsigned char[?]", KEY_BYTES)

local function derive_key(password, salt)
    local done = ffi.C.PKCS5_PBKDF2_HMAC(password, #password, salt, #salt,
        PASSWORD_ROUNDS, ffi.C.EVP_sha256(), KEY_BYTES, key_buffer)
    return done == 1 and ffi.string(key_buffer, KEY_BYTES) or nil
end

-- Takes as long for a wrong byte at the start as for one at the end.
local function equal_in_constant_time(a, b)
    if #a ~= #b then
        return false
    end
    local difference = 0
    for i = 1, #a do
        difference = bit.bor(difference, bit.bxor(string.byte(a, i), string.byte(b, i)))
    end
    return difference == 0
end

local customers = {}

local function add_customer(name, password, plan)
    local salt = ngx.md5_bin(name)
    customers[name] = { name = name, salt = salt, key = derive_key(password, salt), plan = plan }
end

function _M.init()
    add_customer("alice", "wonderland", "gold")
    add_customer("bob", "builder", "basic")
end

local function sign(payload)
    return ngx.encode_base64(ngx.hmac_sha1(SECRET, payload), true)
end

local function issue_token(customer)
    local payload = ngx.encode_base64(cjson.encode({
        sub = customer.name,
        plan = customer.plan,
        exp = ngx.time() + LIFETIME_S,
    }), true)
    return payload .. "." .. sign(payload)
end

-- A token for this customer, or nil and why not.
function _M.login(name, password)
    local customer = customers[name or ""]
    local key = customer and derive_key(tostring(password), customer.salt)
    if not key or not equal_in_constant_time(key, customer.key) then
        return nil, "wrong name or password"
    end
    return issue_token(customer)
end

local function parse_token(header)
    local m = ngx.re.match(header, [[^Bearer\s+([A-Za-z0-9+/_-]+)\.([A-Za-z0-9+/_-]+)$]], "jo")
    if m then
        return m[1], m[2]
    end
end

-- The customer that an Authorization header stands for, or nil and why not.
function _M.authenticate(header)
    if not header then
        return nil, "no token"
    end
    local payload, signature = parse_token(header)
    if not payload then
        return nil, "not a bearer token"
    end
    if not equal_in_constant_time(sign(payload), signature) then
        return nil, "wrong signature"
    end
    local claims = cjson.decode(ngx.decode_base64(payload) or "")
    if not claims or claims.exp < ngx.time() then
        return nil, "token expired"
    end
    return customers[claims.sub], "unknown customer"
end

return _M
