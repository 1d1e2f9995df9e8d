-- The service behind the gateway: stock and prices.

local catalog = require "gateway.catalog"
local cjson = require "cjson.safe"

local _M = {}

local function answer(status, body)
    local text = cjson.encode(body)
    ngx.status = status
    ngx.header["Content-Length"] = #text
    ngx.print(text)
end

function _M.serve()
    local m = ngx.re.match(ngx.var.uri, [[^/(price|api/products)/(\d+)$]], "jo")
    local product = m and catalog.find(m[2])
    if not product then
        return answer(404, { error = "no such product" })
    end
    if m[1] == "price" then
        return answer(200, { id = product.id, cents = product.cents })
    end
    return answer(200, { product = product, stock = (product.id * 31) % 17, customer = ngx.var.http_x_customer })
end

return _M
