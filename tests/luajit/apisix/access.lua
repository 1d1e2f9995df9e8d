-- /file: 2 ms in the access phase, half of it in a plugin of somebody's own
local burn = require "burn"
require("steps.quota").access()
burn(0.001)
ngx.exit(204)
