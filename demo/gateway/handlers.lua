-- What each route does.

local auth = require "gateway.auth"
local catalog = require "gateway.catalog"
local cjson = require "cjson.safe"
local http_client = require "gateway.http_client"
local response = require "gateway.response"

local _M = {}

local DISCOUNTS = { gold = 0.9, basic = 1 }

local backend

function _M.init(options)
    backend = { host = options.backend_host, port = options.backend_port }
    auth.init()
    catalog.init()
end

local function read_json_body()
    ngx.req.read_body()
    return cjson.decode(ngx.req.get_body_data() or "")
end

function _M.login()
    local body = read_json_body()
    if type(body) ~= "table" then
        return response.fail(400, "a JSON object is needed")
    end
    local token, reason = auth.login(body.name, body.password)
    if not token then
        return response.fail(401, reason)
    end
    return response.json(200, { token = token })
end

function _M.list_products()
    local args = ngx.req.get_uri_args()
    local found = catalog.search(args.query, tonumber(args.limit) or 20)
    return response.json(200, { count = #found, products = found })
end

local function fetch_price(id)
    local status, body = http_client.get(backend.host, backend.port, "/price/" .. id)
    if status == 200 then
        return cjson.decode(body)
    end
    return nil, status == 404 and "no such product" or "the backend does not answer", status == 404 and 404 or 502
end

-- Asks the backend, and changes its answer.
function _M.show_price(ctx)
    local price, reason, status = fetch_price(ctx.params.id)
    if not price then
        return response.fail(status, reason)
    end
    price.cents = math.floor(price.cents * (DISCOUNTS[ctx.customer.plan] or 1))
    price.customer = ctx.customer.name
    return response.json(200, price)
end

local function validate_order(order)
    if type(order) ~= "table" or type(order.items) ~= "table" or #order.items == 0 then
        return "an order needs items"
    end
    for position, item in ipairs(order.items) do
        if not catalog.find(item.id) then
            return "item " .. position .. ": no such product"
        end
        if type(item.count) ~= "number" or item.count < 1 or item.count > 100 then
            return "item " .. position .. ": the count is 1 to 100"
        end
    end
    if not ngx.re.find(order.email or "", [[^[\w.+-]+@[\w-]+(\.[\w-]+)+$]], "jo") then
        return "not an e-mail address"
    end
end

local function price_order(order, discount)
    local lines, total = {}, 0
    for position, item in ipairs(order.items) do
        local product = catalog.find(item.id)
        local cents = math.floor(product.cents * item.count * discount)
        lines[position] = { name = product.name, count = item.count, cents = cents }
        total = total + cents
    end
    return lines, total
end

function _M.create_order(ctx)
    local order = read_json_body()
    local complaint = validate_order(order)
    if complaint then
        return response.fail(400, complaint)
    end
    local lines, total = price_order(order, DISCOUNTS[ctx.customer.plan] or 1)
    return response.json(201, {
        number = ngx.encode_base64(ngx.sha1_bin(ngx.now() .. order.email), true):sub(1, 12),
        customer = ctx.customer.name,
        lines = lines,
        cents = total,
    })
end

return _M
