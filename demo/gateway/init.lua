-- The gateway's entry points, one for each phase of a request.

local auth = require "gateway.auth"
local handlers = require "gateway.handlers"
local metrics = require "gateway.metrics"
local ratelimit = require "gateway.ratelimit"
local response = require "gateway.response"
local router = require "gateway.router"

local _M = {}

local routes

function _M.init(options)
    handlers.init(options)
    require "gateway.backend"
    routes = router.new {
        { "POST", "/api/login", handlers.login, public = true, limit = 1e6 },
        { "GET", "/api/products", handlers.list_products, limit = 1e6 },
        { "GET", "/api/products/:id", limit = 1e6 }, -- proxied by nginx
        { "GET", "/api/products/:id/price", handlers.show_price, limit = 1e6 },
        { "POST", "/api/orders", handlers.create_order, limit = 1e6 },
        { "GET", "/api/limited", handlers.list_products, limit = 50 },
    }
end

function _M.access()
    local ctx = ngx.ctx
    ctx.started = ngx.now()

    local route, params = router.match(routes, ngx.req.get_method(), ngx.var.uri)
    if not route then
        return response.fail(404, "no such route")
    end
    ctx.route, ctx.params = route, params

    if not route.public then
        local customer, reason = auth.authenticate(ngx.var.http_authorization)
        if not customer then
            return response.fail(401, reason)
        end
        ctx.customer = customer
        ngx.req.set_header("X-Customer", customer.name)
    end

    local remaining = ratelimit.take(ctx.customer and ctx.customer.name or ngx.var.remote_addr, route)
    if not remaining then
        return response.fail(429, "too many requests")
    end
    ctx.remaining = remaining
end

function _M.content()
    local ctx = ngx.ctx
    return ctx.route.handler(ctx)
end

function _M.header_filter()
    local ctx = ngx.ctx
    if ctx.remaining then
        ngx.header["X-RateLimit-Remaining"] = ctx.remaining
    end
    ngx.header["Server"] = nil
end

function _M.log()
    metrics.count(ngx.ctx.route, ngx.status, ngx.ctx.started)
end

return _M
