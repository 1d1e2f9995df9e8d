-- has nothing against anybody
return
