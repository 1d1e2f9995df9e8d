local burn = require "burn"
local _M = {}

function _M.incoming()
    burn(0.001)
    return nil
end

return _M
