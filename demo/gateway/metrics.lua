-- Counters per route and status class, and a histogram of response times, in shared memory.

local _M = {}

local BOUNDS_MS = { 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000 }

local function bucket_of(ms)
    for _, bound in ipairs(BOUNDS_MS) do
        if ms <= bound then
            return bound
        end
    end
    return "inf"
end

function _M.count(route, status, started)
    local dict = ngx.shared.metrics
    local id = route and route.id or "unrouted"
    dict:incr(id .. "|" .. math.floor(status / 100) .. "xx", 1, 0)
    if started then
        ngx.update_time()
        dict:incr(id .. "|le|" .. bucket_of((ngx.now() - started) * 1000), 1, 0)
    end
end

return _M
