"""From depth to geometry: camera, packets, normals, point clouds, meshes, files and views from a moved camera."""
