-- A sliding window over two buckets in shared memory: the current one, and what is left of the one before.

local _M = {}

local WINDOW_S = 1

local function bucket_key(who, route, window)
    return who .. "|" .. route.id .. "|" .. window
end

-- How many requests are left for `who` on this route in this window; nil when none is.
function _M.take(who, route)
    local dict = ngx.shared.rate_limit
    local now = ngx.now()
    local window = math.floor(now / WINDOW_S)
    local used, err = dict:incr(bucket_key(who, route, window), 1, 0, 2 * WINDOW_S)
    if not used then
        ngx.log(ngx.ERR, "rate limit: ", err)
        return route.limit
    end
    local before = dict:get(bucket_key(who, route, window - 1)) or 0
    local weight = 1 - (now / WINDOW_S - window)
    local estimate = used + before * weight
    if estimate > route.limit then
        return nil
    end
    return math.floor(route.limit - estimate)
end

return _M
