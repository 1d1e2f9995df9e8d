local quota = require "steps.quota"
local _M = {}

function _M.access()
    quota.access()
    return nil
end

return _M
