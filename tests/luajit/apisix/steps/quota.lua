-- A plugin in a folder of its own: --plugin-path .../steps
local burn = require "burn"
local _M = {}

function _M.access()
    burn(0.001)
    return nil
end

return _M
