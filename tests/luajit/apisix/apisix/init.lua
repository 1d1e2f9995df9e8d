-- The handlers that nginx.conf calls. A request takes 4 ms:
--
--   phase           plugin                    own    of it inside of it
--   access          limit-count               1      1 (limit-count/store.lua, the same plugin)
--   access          serverless-pre-function   0      1 (calls the quota of steps/)
--   access          steps/quota               1
--   header_filter   cors                      0.5
--   body_filter     (none)                    0.5
--   log             limit-count               1
local burn = require "burn"
local plugins = {
    count = require "apisix.plugins.limit-count",
    serverless = require "apisix.plugins.serverless-pre-function",
    cors = require "apisix.plugins.cors",
}

local _M = {}

function _M.http_access_phase()
    plugins.count.access()
    plugins.serverless.access()
end

function _M.http_header_filter_phase()
    plugins.cors.header_filter()
end

function _M.http_body_filter_phase()
    if ngx.arg[2] then
        burn(0.0005)
    end
end

function _M.http_log_phase()
    plugins.count.log()
end

return _M
