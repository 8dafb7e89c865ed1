/*#
How elements lie in storage buffers, and how shaders load them as f32 and store them back.
T is a name that DeviceProfile::storage gives: f32, f16, f16p (f16, two to a u32), bf16 (two to a u32), u32.
Vectors of four need rows whose length is a multiple of four; scalar stores to f16p and bf16 do not exist.
#*/
/*% macro storage1(T) %*/
/*%- if T in ["f16p", "bf16"] %*/u32/*% else %*/${T}/*% endif -%*/
/*% endmacro %*/
/*% macro storage4(T) %*/
/*%- if T in ["f16p", "bf16"] %*/vec2<u32>/*% else %*/vec4<${T}>/*% endif -%*/
/*% endmacro %*/
/*# The element `index` of the buffer named `buffer`, as f32. #*/
/*% macro load1(buffer, index, T) %*/
/*%- if T == "f32" %*/${buffer}[${index}]
/*%- elif T == "f16" %*/f32(${buffer}[${index}])
/*%- elif T == "bf16" %*/bitcast<f32>(select(${buffer}[(${index}) >> 1u] << 16u, ${buffer}[(${index}) >> 1u] & 0xffff0000u, ((${index}) & 1u) == 1u))
/*%- elif T == "f16p" %*/unpack2x16float(${buffer}[(${index}) >> 1u])[(${index}) & 1u]
/*%- endif -%*/
/*% endmacro %*/
/*# Elements 4*index .. 4*index+3 of the buffer, as vec4<f32>. #*/
/*% macro load4(buffer, index, T) %*/
/*%- if T == "f32" %*/${buffer}[${index}]
/*%- elif T == "f16" %*/vec4<f32>(${buffer}[${index}])
/*%- elif T == "bf16" %*/bitcast<vec4<f32>>(vec4<u32>(${buffer}[${index}].x << 16u, ${buffer}[${index}].x & 0xffff0000u, ${buffer}[${index}].y << 16u, ${buffer}[${index}].y & 0xffff0000u))
/*%- elif T == "f16p" %*/vec4<f32>(unpack2x16float(${buffer}[${index}].x), unpack2x16float(${buffer}[${index}].y))
/*%- endif -%*/
/*% endmacro %*/
/*# An f32 value as the buffer's element. #*/
/*% macro store1(value, T) %*/
/*%- if T == "f16" %*/f16(${value})/*% else %*/${value}/*% endif -%*/
/*% endmacro %*/
/*# A vec4<f32> as the buffer's four elements. #*/
/*% macro store4(value, T) %*/
/*%- if T == "f16" %*/vec4<f16>(${value})
/*%- elif T == "f16p" %*/vec2<u32>(pack2x16float((${value}).xy), pack2x16float((${value}).zw))
/*%- else %*/${value}
/*%- endif -%*/
/*% endmacro %*/
/*# The same for templates that are rendered for both: n is 4 for vectors of four, 1 for single elements. #*/
/*% macro storage(n, T) %*/
/*%- if n == 4 %*/${storage4(T)}/*% else %*/${storage1(T)}/*% endif -%*/
/*% endmacro %*/
/*% macro load(n, buffer, index, T) %*/
/*%- if n == 4 %*/${load4(buffer, index, T)}/*% else %*/${load1(buffer, index, T)}/*% endif -%*/
/*% endmacro %*/
/*% macro store(n, value, T) %*/
/*%- if n == 4 %*/${store4(value, T)}/*% else %*/${store1(value, T)}/*% endif -%*/
/*% endmacro %*/
/*# The product of two such vectors, and the sum of one's elements. #*/
/*% macro product(n, a, b) %*/
/*%- if n == 4 %*/dot(${a}, ${b})/*% else %*/${a} * ${b}/*% endif -%*/
/*% endmacro %*/
/*% macro total(n, value) %*/
/*%- if n == 4 %*/dot(${value}, vec4<f32>(1.0))/*% else %*/${value}/*% endif -%*/
/*% endmacro %*/
