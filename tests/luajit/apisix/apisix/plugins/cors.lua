local burn = require "burn"
local _M = {}

function _M.header_filter()
    burn(0.0005)
    return nil
end

return _M
