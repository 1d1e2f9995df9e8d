local burn = require "burn"
local store = require "apisix.plugins.limit-count.store"
local _M = {}

function _M.access()
    store.incoming()
    return nil
end

function _M.log()
    burn(0.001)
    return nil
end

return _M
